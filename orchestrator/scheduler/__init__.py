"""The scheduler: submits what schedules want, starts the drivers of queued runs, and watches what they spend."""
