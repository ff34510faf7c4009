"""The embedded stack behind `chatrpc dev`: everything that chatrpc needs, on one machine, without an account."""
