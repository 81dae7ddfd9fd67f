"""What is watched while a training runs: workers, losses, nodes; and what is found in them."""
