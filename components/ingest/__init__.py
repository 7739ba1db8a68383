"""Check and index volumes with labels; put bad ones aside with their reasons."""
