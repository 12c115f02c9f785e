"""What a run gives away about one client, bounded: noise, and the accountant of what was released."""
