"""Resolve model names to checked, fingerprinted weights; targets, compatibility, finetuning."""
