package sched

// item is one queued handle.
type item struct {
	handle Handle
	millis int64 // when its task became ready
}

// fifo is a growing ring.
type fifo struct {
	buf        []item
	head, size int
}

const fifoMin = 16

func (q *fifo) push(x item) {
	if q.size == len(q.buf) {
		q.resize(max(fifoMin, 2*len(q.buf)))
	}
	q.buf[(q.head+q.size)&(len(q.buf)-1)] = x
	q.size++
}

func (q *fifo) pop() item {
	x := q.buf[q.head]
	q.head = (q.head + 1) & (len(q.buf) - 1)
	q.size--
	if len(q.buf) > 1024 && q.size < len(q.buf)/8 { // give a past backlog's memory back
		q.resize(len(q.buf) / 4)
	}
	return x
}

func (q *fifo) oldest() int64 { return q.buf[q.head].millis }

func (q *fifo) resize(n int) {
	buf := make([]item, n)
	k := copy(buf, q.buf[q.head:min(q.head+q.size, len(q.buf))])
	copy(buf[k:], q.buf[:q.size-k])
	q.buf, q.head = buf, 0
}
