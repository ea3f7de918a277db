"""Messages of jobtrack as they are on the wire, for this package only."""
