"""What scripts/test is made of: steps and their progress, environments, the plan."""
