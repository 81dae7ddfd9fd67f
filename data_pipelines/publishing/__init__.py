"""What a dataset is published with: Croissant metadata, dataset card, licences."""
