"""What scripts/bench is made of: the parts that measure, and the table that they fill."""
