package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/quorate/quorate/ledger/proof"
	"github.com/quorate/quorate/node/api"
)

// exportWhole writes an export with the checkpoint that covers it and the
// keys that signed that.
func (c *ledgerExportCmd) exportWhole(ctx context.Context, con console) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	signed, err := cl.AuditText(ctx, "checkpoint")
	if err != nil {
		return err
	}
	keys, err := cl.AuditText(ctx, "keys")
	if err != nil {
		return err
	}
	text, _, _ := strings.Cut(string(signed), "\n\n")
	cp, err := proof.ParseCheckpoint(text + "\n")
	if err != nil {
		return api.Errorf(502, 7, "bad_checkpoint", api.RetryNo, "%v", err)
	}
	var sizes []string
	for _, h := range cp.Shards {
		sizes = append(sizes, fmt.Sprintf("%d:%d", h.Shard, h.Size))
	}
	in, err := cl.AuditExport(ctx, strings.Join(sizes, ","))
	if err != nil {
		return err
	}
	defer in.Close()
	f, err := os.OpenFile(c.Out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fileError(err)
	}
	n, err := io.Copy(f, in)
	if err = errors.Join(err, f.Close()); err != nil {
		return api.Errorf(502, 7, "export_cut_off", api.RetryLater, "after %d bytes: %v", n, err).WithHint("remove %s and export again", c.Out)
	}
	for suffix, b := range map[string][]byte{".checkpoint": signed, ".keys": keys} {
		if err := os.WriteFile(c.Out+suffix, b, 0o644); err != nil {
			return fileError(err)
		}
	}
	fmt.Fprintf(con.err, "%d bytes in %s, with %s.checkpoint and %s.keys: quorate ledger verify %s\n", n, c.Out, c.Out, c.Out, c.Out)
	return nil
}

func fileError(err error) error {
	return api.Errorf(500, 2, "file", api.RetryNo, "%v", err)
}

// readLimited reads a small file.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fileError(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has over %d bytes", path, limit)
	}
	if err != nil {
		return nil, fileError(err)
	}
	return b, nil
}

const maxKeysBytes = 1 << 20 // 4096 keys of 256 bytes

// offline verifies a file, without asking any node.
func (c *ledgerVerifyCmd) offline(con console) error {
	path := c.Keys
	if path == "" {
		path = c.File + ".keys"
	}
	text, err := readLimited(path, maxKeysBytes)
	if err != nil && c.Keys == "" {
		return noKeys(err, path)
	}
	if err != nil {
		return err
	}
	keys, _ := proof.ReadKeys(string(text))
	need := c.Signatures // 0: a majority of the nodes that are still there
	f, err := os.Open(c.File)
	if err != nil {
		return fileError(err)
	}
	defer f.Close()
	in, done, err := unpacked(bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		return fileError(err)
	}
	defer done()
	start, _ := in.Peek(max(len(proofStart), len(archiveStart)))
	archive := bytes.HasPrefix(start, []byte(archiveStart))
	if bytes.HasPrefix(start, []byte(proofStart)) {
		return c.offlineProof(con, in, keys, need)
	}
	if c.Checkpoint == "" {
		c.Checkpoint = c.File + ".checkpoint"
	}
	signed, err := readLimited(c.Checkpoint, proof.MaxCheckpointBytes)
	if err != nil {
		return err
	}
	cp, err := proof.Open(signed, keys, need)
	if err != nil {
		return refuted(err)
	}
	verify := proof.Verify
	if archive {
		verify = proof.VerifyArchive
	}
	rep, err := verify(in, &cp.Checkpoint)
	if err != nil {
		return refuted(err)
	}
	if c.JSON {
		return printJSON(con.out, map[string]any{"ok": true, "cluster_id": rep.Cluster, "records": rep.Records, "shards": rep.Shards, "signed_by": cp.By})
	}
	if archive {
		fmt.Fprintf(con.out, "records %d to %d of shard %d of cluster %s verify, byte for byte; checkpoint signed by %s\n",
			rep.Shards[0].First, rep.Shards[0].Size, rep.Shards[0].Shard, rep.Cluster, strings.Join(cp.By, ", "))
		return nil
	}
	fmt.Fprintf(con.out, "%d records in %d shards of cluster %s verify, byte for byte; checkpoint signed by %s\n", rep.Records, len(rep.Shards), rep.Cluster, strings.Join(cp.By, ", "))
	return nil
}

// zstdMagic begins what is packed, as archives are.
var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

func unpacked(in *bufio.Reader) (*bufio.Reader, func(), error) {
	if b, _ := in.Peek(len(zstdMagic)); !bytes.Equal(b, zstdMagic) {
		return in, func() {}, nil
	}
	z, err := zstd.NewReader(in, zstd.WithDecoderMaxMemory(1<<30), zstd.WithDecoderMaxWindow(64<<20))
	if err != nil {
		return nil, nil, err
	}
	return bufio.NewReaderSize(z, 1<<20), z.Close, nil
}

const archiveStart = `{"format":"` + proof.ArchiveFormat + `"`
const proofStart = `{"format":"` + proof.RecordFormat + `"`

func (c *ledgerVerifyCmd) offlineProof(con console, in io.Reader, keys []string, need int) error {
	b, err := io.ReadAll(io.LimitReader(in, proof.MaxCheckpointBytes+proof.MaxLineBytes))
	if err != nil {
		return fileError(err)
	}
	var signed []byte
	if c.Checkpoint != "" {
		if signed, err = readLimited(c.Checkpoint, proof.MaxCheckpointBytes); err != nil {
			return err
		}
	}
	r, cp, err := proof.VerifyRecord(b, signed, keys, need)
	if err != nil {
		return refuted(err)
	}
	if c.JSON {
		return printJSON(con.out, map[string]any{"ok": true, "shard": r.Shard, "seq": r.Seq, "verb": r.Verb, "signed_by": cp.By})
	}
	fmt.Fprintf(con.out, "record %d of shard %d (%s) is in the log; checkpoint signed by %s\n", r.Seq, r.Shard, r.Verb, strings.Join(cp.By, ", "))
	return nil
}

// noKeys says what a missing file of keys means: a checkpoint that nobody
// known has signed proves nothing, so there is no verifying without.
func noKeys(err error, path string) error {
	var e *api.Error
	if !errors.As(err, &e) {
		return err
	}
	return api.Errorf(422, 7, "keys_missing", api.RetryNo, "there is no %s, and without keys nobody can tell who signed the checkpoint", path).
		WithHint("ask those you trust for their keys (on a node: quorate ledger keys > %s), or give --keys FILE", path)
}

// refuted says what does not verify.
func refuted(err error) error {
	code := "not_verified"
	var f *proof.Fault
	if errors.As(err, &f) {
		code = "export_" + string(f.Kind)
	}
	return api.Errorf(422, 7, code, api.RetryNo, "%v", err).WithHint("take export, checkpoint and keys that belong together; if they do, the file is not what the cluster signed")
}

type ledgerProveCmd struct {
	apiFlags `embed:""`
	Record   string `arg:"" help:"SHARD/SEQ, as ledger log shows it."`
}

// Run prints one record with its proof and the checkpoint it leads to.
func (c *ledgerProveCmd) Run(ctx context.Context, con console) error {
	a, b, ok := strings.Cut(c.Record, "/")
	shard, err1 := strconv.ParseUint(a, 10, 32)
	seq, err2 := strconv.ParseUint(b, 10, 63)
	if !ok || err1 != nil || err2 != nil || seq == 0 {
		return usageError{fmt.Errorf("%q is not SHARD/SEQ, such as 1/42", c.Record)}
	}
	return c.text(ctx, con, fmt.Sprintf("proof?shard=%d&seq=%d", shard, seq))
}

type ledgerCheckpointCmd struct {
	apiFlags `embed:""`
}

// Run prints an audit checkpoint made now.
func (c *ledgerCheckpointCmd) Run(ctx context.Context, con console) error {
	return c.text(ctx, con, "checkpoint")
}

type ledgerKeysCmd struct {
	apiFlags `embed:""`
}

// Run prints the keys that checkpoints are signed with.
func (c *ledgerKeysCmd) Run(ctx context.Context, con console) error { return c.text(ctx, con, "keys") }

// text prints a document of the audit log as it is.
func (c *apiFlags) text(ctx context.Context, con console, path string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	b, err := cl.AuditText(ctx, path)
	if err != nil {
		return err
	}
	_, err = con.out.Write(b)
	return err
}

type ledgerEraseCmd struct {
	apiFlags `embed:""`
	ID       string `arg:"" help:"Task ID."`
	Reason   string `required:"" help:"Why; it stands in the audit record."`
}

// Run erases a task's payload.
func (c *ledgerEraseCmd) Run(ctx context.Context, con console) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	t, err := cl.Erase(ctx, c.ID, c.Reason)
	if err != nil {
		return err
	}
	fmt.Fprintf(con.out, "%s: input, context, result and error are erased\n", t.TaskID)
	return nil
}
