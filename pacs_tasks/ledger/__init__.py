"""The record of every job in Redis: what was asked, what there is to do, and what came of it."""
