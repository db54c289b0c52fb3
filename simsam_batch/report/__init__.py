"""What people look at, and what other tools read: the page about a run, and its exports."""
