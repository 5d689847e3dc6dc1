"""Read prompts from probe files and hub data sets, and render them to token ids."""
