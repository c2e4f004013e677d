package api

import (
	"fmt"
	"strings"
)

// Retry says what a caller may do after an error.
type Retry string

// The three answers to "may I try again?".
const (
	RetryNo      Retry = "no"       // it will fail again, unchanged
	RetrySameKey Retry = "same_key" // the outcome is unknown: repeat with the same idempotency key (or epoch)
	RetryLater   Retry = "later"    // certainly not done: repeat after a while
)

// Error is a refusal or failure as a caller sees it: RFC 9457 problem JSON
// with the layer (1 to 7) it belongs to, a stable snake_case code and whether
// a retry is safe.
type Error struct {
	Type   string `json:"type"`   // URI reference: "https://quorate.dev/problems/" + code
	Title  string `json:"title"`  // the code in words
	Status int    `json:"status"` // HTTP status
	Detail string `json:"detail,omitempty"`
	Layer  int    `json:"layer"`
	Code   string `json:"code"`
	Retry  Retry  `json:"retry"`
	Hint   string `json:"hint,omitempty"`           // what to do next
	Task   string `json:"task_id,omitempty"`        // which task, when one is meant
	State  string `json:"state,omitempty"`          // its state, when it explains the refusal
	After  int    `json:"retry_after_ms,omitempty"` // retry later: how much later
}

// Layer names, by number; index 0 is unused.
var layerNames = [8]string{"", "execution", "communication", "discovery", "session", "coordination", "verification", "governance"}

// LayerName is the name of a layer of the Agent OSI Model.
func LayerName(layer int) string {
	if layer < 1 || layer > 7 {
		return "unknown"
	}
	return layerNames[layer]
}

// Errorf makes an Error; code also gives type and title.
func Errorf(status, layer int, code string, retry Retry, format string, args ...any) *Error {
	return &Error{
		Type: "https://quorate.dev/problems/" + code, Title: strings.ReplaceAll(code, "_", " "),
		Status: status, Layer: layer, Code: code, Retry: retry, Detail: fmt.Sprintf(format, args...),
	}
}

// WithHint returns e with what to do next.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// Error renders as "L5 coordination: stale_lease: detail (hint)".
func (e *Error) Error() string {
	s := fmt.Sprintf("L%d %s: %s: %s", e.Layer, LayerName(e.Layer), e.Code, e.Detail)
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// SplitCapability parses "action:target"; both halves are non-empty. The
// target may contain colons.
func SplitCapability(s string) (action, target string, err error) {
	action, target, ok := strings.Cut(s, ":")
	if !ok || action == "" || target == "" {
		return "", "", fmt.Errorf("capability %q is not ACTION:TARGET", s)
	}
	return action, target, nil
}
