"""Records, shards, filters, duplicates, tokenizing, packing, loading, audit. Works on paths and tensors, without a run.

Public, and changed only with a note in CHANGELOG.md:
- `data_pipelines.datasets.reader`: `CuratedDataset`, random access to the samples of a curated dataset.
- `data_pipelines.inference.image_tokenizer`: `ImageTokenizer`, PIL images to codes and back.
- `data_pipelines.inference.illume_plus`: `IllumePlus`, to generate, edit, describe and answer.
- `data_pipelines.audit.summary` and `data_pipelines.audit.page`: the counts of a dataset, and the page about it.
- `data_pipelines.publishing`: a dataset card and a Croissant description.

Example: `ImageTokenizer.load(folder).encode(Image.open("cat.jpg"))`, with the folder of a `tokenizer@1` artifact
"""
