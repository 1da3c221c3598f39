"""The receiver: the process to which C-MOVE delivers, and to which storage commitment is reported."""
