"""What the server can be asked, message in and message out, with no transport in sight."""
