package compliance

import _ "embed"

// Example is the text of the pack that ships with the program, to start from.
//
//go:embed packs/gdpr-basics.yaml
var Example []byte
