"""What people read: tables, cards, pages."""
