"""DualViTok, the unified MLLM, the diffusion decoder, their losses and weights on disk.

Public, and changed only with a note in CHANGELOG.md:
- `models.dualvitok.model`, `models.mllm.model`, `models.diffusion.decoder`: the models; a `config` is next to each.
- `models.dualvitok.weights`, `models.mllm.weights`, `models.diffusion.weights`: `load` and `save` a model's folder.
- `models.published_weights`: conversion from and to the published weights.
- `python -m models.check`: compares the models with the public vectors.

Example: `models.dualvitok.weights.load(folder).encode(images_BCYX)`, with images of floats in [-1, 1]
"""
