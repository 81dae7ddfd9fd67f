"""Where bytes lie: a folder, or a bucket. Reading in ranges, writing in parts, one create per key."""
