;; Takes memory a page at a time and writes on all of it, so that the host really has to give it.
(module
  ;; @answers
  ;; @heap
  (func $soil (param $page i32)
    (memory.fill (i32.shl (local.get $page) (i32.const 16)) (i32.const 165) (i32.const 65536)))
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (local $page i32)
    (loop $more
      (local.set $page (memory.grow (i32.const 1)))
      (if (i32.eq (local.get $page) (i32.const -1)) (then unreachable))
      (call $soil (local.get $page))
      (br $more))
    unreachable))
