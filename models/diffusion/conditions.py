"""Sizes of SDXL's conditions. There is no text here, so its inputs are zeros of these sizes. Source: SDXL."""

TEXT_TOKENS = 77
TEXT_WIDTH = 2048
POOLED_WIDTH = 1280
NUM_TIME_IDS = 6  # the last is the resolution's index in the list, the others are 0
TIME_ID_WIDTH = 256
