"""`gpu-check --broker`: what a claim and a park through the broker cost, and whether every byte is right."""
