"""Where people sit down: talk to a speaker, or choose between answers, in the terminal or on a page of this machine."""
