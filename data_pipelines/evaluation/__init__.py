"""Evaluation of finished models: benchmark images, reconstruction metrics, per-sample results and their summary."""
