"""Images: decoding within limits, measuring, resizing, model input, metadata of opt-out, contact sheets."""
