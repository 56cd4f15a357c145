"""Chat templates that come with us, for models whose files have none."""
