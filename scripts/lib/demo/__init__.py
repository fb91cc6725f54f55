"""What scripts/demo is made of: what must be there, the long steps, the apps and their broker, the picture, the sums."""
