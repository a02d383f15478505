"""What the shipped models cost, what the paper reports of them, and the page that says so."""
