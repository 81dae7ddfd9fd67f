"""Does a training fit, how long does it take, what does it cost: arithmetic over `CostFacts` and machines."""
