"""A request: its schema, validation, and composition from presets and overrides."""
