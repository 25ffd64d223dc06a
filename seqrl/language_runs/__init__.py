"""What runs of speakers are made of: settings, folders, proposals, fine-tuning by rewards and by preferences."""
