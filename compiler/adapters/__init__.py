"""LoRA adapters: read from PEFT folders and ordering files, brought to canonical names, merged into weights."""
