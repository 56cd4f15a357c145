"""Where checkpoints come from: folders of this machine, or the Hugging Face Hub through its cache."""
