"""A model's name becomes checked, fingerprinted weights; targets, compatibility, finetuning."""
