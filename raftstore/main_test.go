package raftstore

import (
	"log/slog"
	"testing"

	"go.uber.org/goleak"
)

var testDiscard = slog.New(slog.DiscardHandler)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
