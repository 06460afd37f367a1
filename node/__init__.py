"""A lot of vehicles: what they offer, what they run, and when they leave."""
