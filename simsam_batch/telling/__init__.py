"""What people and log collectors are told of a run: progress, events, status, damage."""
