"""Local copies of stored files: downloading, checking, locking and evicting them."""
