;; Writes 900 lines of 8 KiB into the log, and then acknowledges.
(module
  (import "sandpost:plugin/log@0.1.0" "log" (func $log (param i32 i32 i32 i32 i32)))
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (local $line i32)
    (memory.fill (i32.const 65536) (i32.const 120) (i32.const 8192))
    (loop $more
      (call $log (i32.const 2) (i32.const 65536) (i32.const 8192) (i32.const 0) (i32.const 0))
      (local.set $line (i32.add (local.get $line) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $line) (i32.const 900))))
    (call $ack)))
