"""Audits of datasets: counts, pages with images, decisions per record, differences and drift between datasets."""
