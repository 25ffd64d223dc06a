"""What training on logged episodes shares: settings, the loop over windows, returns relabelled by values."""
