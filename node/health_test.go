package node

import (
	"fmt"
	"strings"
	"testing"

	"github.com/quorate/quorate/node/api"
)

func TestDoctorOnReplicas(t *testing.T) {
	for _, c := range []struct {
		shards []api.ShardStatus
		status string
		says   string
	}{
		{[]api.ShardStatus{{Shard: 1}, {Shard: 2}}, "ok", "no replica"},
		{[]api.ShardStatus{{Shard: 1}, {Shard: 2, Diverged: []string{"n3"}}}, "fail", "shard 2 (n3)"},
	} {
		got := 0
		checkReplicas(&api.Cluster{Shards: c.shards}, func(layer int, name, status, hint, format string, args ...any) {
			got++
			if layer != 5 || status != c.status || !strings.Contains(fmt.Sprintf(format, args...), c.says) || (hint == "") != (status == "ok") {
				t.Errorf("%d %s %s %q %q", layer, name, status, hint, fmt.Sprintf(format, args...))
			}
		})
		if got != 1 {
			t.Errorf("%d checks", got)
		}
	}
}
