package peer

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// A snapshot stream: chunks, an end frame with length and checksum of the
// whole, a verdict back. Either side may send one; the direction rule is for
// main connections only.

// errVerdict: the verdict came before the stream's end.
var errVerdict = errors.New("the receiver gave up")

// SendSnapshot streams what write writes to the peer's Handler.Snapshot and
// waits for its verdict: nil means taken over whole. ctx ends it at any point.
func (t *Transport) SendSnapshot(ctx context.Context, to uint64, write func(io.Writer) error) error {
	r, _ := t.conn(to)
	if r == nil || r.address() == "" {
		return ErrPeerDown
	}
	l, err := t.connect(ctx, r.address(), forSnapshot, to, SnapshotChunkBytes)
	if err != nil {
		return fmt.Errorf("peer: snapshot: %w", err)
	}
	defer l.release()
	nc := l.nc

	w := &chunkWriter{nc: nc, buf: make([]byte, 0, SnapshotChunkBytes)}
	verdict := make(chan error, 1)
	go func() { // ends with the connection, which this function closes
		v := readVerdict(l.fr)
		w.over.Store(true)
		_ = nc.SetWriteDeadline(time.Unix(1, 0)) // wakes a blocked write
		verdict <- v
	}()
	if err = write(w); err == nil {
		err = w.end()
	}
	if err != nil && w.err == nil {
		_ = nc.Close() // the writer's own failure: no end frame, the receiver discards
		<-verdict
		return fmt.Errorf("peer: snapshot: %w", err)
	}
	if err != nil {
		_ = nc.SetReadDeadline(time.Now().Add(HandshakeTimeout)) // a verdict may say why
	}
	switch v := <-verdict; {
	case ctx.Err() != nil:
		return fmt.Errorf("peer: snapshot: %w", ctx.Err())
	case v == nil && err != nil:
		return fmt.Errorf("peer: snapshot: %w", errVerdict)
	case v != nil:
		return fmt.Errorf("peer: snapshot: %w", v)
	}
	return nil
}

func readVerdict(fr *frameReader) error {
	var f frame
	if err := fr.next(&f); err != nil {
		return err
	}
	switch {
	case f.typ != typeVerdict:
		return errFrameUnasked
	case f.kind == statusOK:
		return nil
	}
	return parseError(f.body)
}

// chunkWriter cuts a stream into frames.
type chunkWriter struct {
	nc    net.Conn
	buf   []byte // less than a chunk
	out   []byte
	total uint64
	crc   uint32
	err   error       // of the connection; sticky
	over  atomic.Bool // the verdict is there: stored before the write deadline is moved into the past, loaded after it was set ahead
}

func (w *chunkWriter) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		k := copy(w.buf[len(w.buf):cap(w.buf)], b)
		w.buf, b = w.buf[:len(w.buf)+k], b[k:]
		if len(w.buf) == cap(w.buf) {
			if err := w.flush(); err != nil {
				return n - len(b), err
			}
		}
	}
	return n, w.err
}

func (w *chunkWriter) flush() error {
	if w.err != nil || len(w.buf) == 0 {
		return w.err
	}
	w.crc = crc32.Update(w.crc, castagnoli, w.buf)
	w.total += uint64(len(w.buf))
	w.send(&frame{typ: typeChunk, body: w.buf})
	w.buf = w.buf[:0]
	return w.err
}

func (w *chunkWriter) send(f *frame) {
	w.out = appendFrame(w.out[:0], f)
	w.err = w.nc.SetWriteDeadline(time.Now().Add(StallTimeout))
	if w.err == nil && w.over.Load() {
		w.err = errVerdict
	}
	if w.err == nil {
		_, w.err = w.nc.Write(w.out)
	}
}

func (w *chunkWriter) end() error {
	if err := w.flush(); err != nil {
		return err
	}
	w.send(&frame{typ: typeEnd, id: w.total, crc: w.crc})
	return w.err
}

// chunkReader is the receiving end. io.EOF comes after the end frame agreed
// with what was read, and never otherwise.
type chunkReader struct {
	nc    net.Conn
	fr    *frameReader
	rest  []byte
	total uint64
	crc   uint32
	err   error // sticky
}

func (r *chunkReader) Read(b []byte) (int, error) {
	for len(r.rest) == 0 && r.err == nil {
		r.err = r.fill()
	}
	if len(r.rest) > 0 {
		n := copy(b, r.rest)
		r.rest = r.rest[n:]
		return n, nil
	}
	return 0, r.err
}

func (r *chunkReader) fill() error {
	_ = r.nc.SetReadDeadline(time.Now().Add(StallTimeout))
	var f frame
	if err := r.fr.next(&f); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	switch f.typ {
	case typeChunk:
		r.rest = f.body
		r.total += uint64(len(f.body))
		r.crc = crc32.Update(r.crc, castagnoli, f.body)
		return nil
	case typeEnd:
		if f.id != r.total || f.crc != r.crc {
			return fmt.Errorf("%w: stream of %d bytes, %d announced", errFrameCRC, r.total, f.id)
		}
		return io.EOF
	}
	return errFrameUnasked
}

// serveSnapshot hands a stream to the handler and answers with its verdict.
func (t *Transport) serveSnapshot(nc *counted, fr *frameReader, h *hello) {
	fr.max = SnapshotChunkBytes
	_, handler, _ := t.self()
	r := &chunkReader{nc: nc, fr: fr}
	err := handler.Snapshot(h.raftID, r)
	if err == nil { // what a handler leaves unread is verified all the same
		_, err = io.Copy(io.Discard, r)
	}
	f := frame{typ: typeVerdict, kind: statusOK}
	if err != nil {
		t.cfg.Logger.Warn("snapshot refused", "layer", layer, "peer", nc.RemoteAddr().String(), "err", err)
		var re *RemoteError
		if !errors.As(err, &re) {
			re = &RemoteError{Code: "snapshot_refused", Text: err.Error()}
		}
		f.kind, f.body = statusError, appendError(nil, re)
	}
	_ = nc.SetWriteDeadline(time.Now().Add(HandshakeTimeout))
	if _, werr := nc.Write(appendFrame(nil, &f)); werr != nil || err == nil {
		return
	}
	// Closing with data unread would reset the connection and could overtake the
	// verdict; the sender stops when it has it.
	_ = nc.SetReadDeadline(time.Now().Add(HandshakeTimeout))
	_, _ = io.Copy(io.Discard, nc)
}

// CallForm sends a forming request to an address and returns the answer. A
// *RefusedError says that the node there will not hear it, and why.
func (t *Transport) CallForm(ctx context.Context, addr string, req []byte) ([]byte, error) {
	if len(req) > MaxFormBytes {
		return nil, ErrTooLarge
	}
	l, err := t.connect(ctx, addr, forForm, 0, MaxFormBytes)
	if err != nil {
		return nil, fmt.Errorf("peer: form: %w", err)
	}
	defer l.release()
	_ = l.nc.SetDeadline(time.Now().Add(StallTimeout))
	var f frame
	if _, err = l.nc.Write(appendFrame(nil, &frame{typ: typeForm, body: req})); err == nil {
		err = l.fr.next(&f)
	}
	if err == nil && f.typ != typeAnswer {
		err = errFrameUnasked
	}
	if err != nil {
		return nil, fmt.Errorf("peer: form: %w", errors.Join(ctx.Err(), err))
	}
	return f.body, nil
}

// serveForm answers one forming request.
func (t *Transport) serveForm(nc *counted, fr *frameReader) {
	t.mu.Lock()
	answer := t.mu.form
	t.mu.Unlock()
	fr.max = MaxFormBytes
	_ = nc.SetDeadline(time.Now().Add(HandshakeTimeout))
	var f frame
	if err := fr.next(&f); err != nil || f.typ != typeForm || answer == nil {
		return
	}
	out := answer(f.body)
	if out == nil || len(out) > MaxFormBytes {
		return
	}
	_ = nc.SetDeadline(time.Now().Add(HandshakeTimeout)) // answering may have meant an fsync
	_, _ = nc.Write(appendFrame(nil, &frame{typ: typeAnswer, body: out}))
}
