"""What happens while a training runs."""
