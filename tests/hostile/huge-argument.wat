;; Hands 12 MiB over in one call.
(module
  (import "sandpost:plugin/log@0.1.0" "log" (func $log (param i32 i32 i32 i32 i32)))
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (drop (memory.grow (i32.const 192)))
    (memory.fill (i32.const 262144) (i32.const 120) (i32.const 12582912))
    (call $log (i32.const 2) (i32.const 262144) (i32.const 12582912) (i32.const 0) (i32.const 0))
    (call $ack)))
