"""The commands: their options, help and examples, and the request that each makes of them."""
