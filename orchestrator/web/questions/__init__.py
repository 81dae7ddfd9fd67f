"""Long questions: commands that run in processes of their own, with progress, and a result that stays."""
