"""What the programs share: settings, logs, errors, command lines."""
