"""How a model is spread over the workers of a training: replicated, sharded, or by DeepSpeed."""
