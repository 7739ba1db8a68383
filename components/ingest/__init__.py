"""Check and index LiTS volumes; put bad ones aside with their reasons."""
