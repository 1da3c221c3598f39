"""The paths of the HTTP API, a module for each subject; ``shown`` gives of a job what a caller may see."""
