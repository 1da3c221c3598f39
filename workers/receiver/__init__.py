"""The receiver: the process that receives C-MOVE deliveries and storage commitment reports."""
